from services.consumer.app import main

main()
