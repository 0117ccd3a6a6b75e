from services.producer.app import main

main()
