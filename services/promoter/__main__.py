from services.promoter.app import main

main()
